"""What can be wrong with particles and a template before training: a test a file, each with numbers for its verdict."""
