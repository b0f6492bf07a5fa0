"""What is measured in a judge's embedding: distances between sets of clips, copies, and heads that
classify."""
