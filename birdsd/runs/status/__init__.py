"""The status of runs: state, reason, time breakdown, logs."""
