"""The parts that tests run against, such as real object stores that tests start, kill and restart."""
