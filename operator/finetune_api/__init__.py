"""The contract between user, operator and trainer: values and rules, no I/O."""
