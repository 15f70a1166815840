"""What every process has: settings, options and output of commands, the log, errors for a person."""
