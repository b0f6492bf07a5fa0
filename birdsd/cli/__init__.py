"""The command line: a verb parses what was typed, calls a room below, and prints."""
