"""The real parts that tests run against: object stores that start, die and come back."""
