"""What the tests share: rows of the contract, small models, exact answers, makers of files."""
