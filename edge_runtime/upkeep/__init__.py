"""What is done to a node from beside it: finding what is wrong, copies of what it keeps, and their way back."""
