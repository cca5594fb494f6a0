"""The commands of `dataforge`, one file a command or a close family. Heavy imports happen inside the commands."""
