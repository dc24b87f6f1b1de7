"""What agents do with files and commands: the tool box, the sandbox, lint fixes, repairs."""
