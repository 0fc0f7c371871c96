"""A server that says what it is told, when it is told: the known truth that a load test is checked against."""
