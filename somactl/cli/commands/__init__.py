"""One module for each group of commands; `somactl.cli.app.COMMANDS` says which command is where."""
