"""The command line: `finetune`, also as `kubectl finetune`."""
