"""The words that every room shares: requests, ports, errors. Imports nothing of ours."""
