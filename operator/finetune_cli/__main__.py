"""`python -m finetune_cli` is `finetune`."""

from finetune_cli.app import main

main()
