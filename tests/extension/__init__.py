"""A user's own parts, each written as one would outside the package: test_extending.py fits, saves and loads them."""
