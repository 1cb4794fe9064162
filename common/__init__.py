"""What is used beside the stages: the list of them, experiments on servers, the load client."""
