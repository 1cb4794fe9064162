"""What is used beside the stages: the load client, and the laboratory that looks at servers."""
