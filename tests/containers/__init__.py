"""The images and the compose file, run for real where a Docker engine runs."""
