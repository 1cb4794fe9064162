"""What stands beside the stages and needs Python alone: imports the standard library and itself."""
