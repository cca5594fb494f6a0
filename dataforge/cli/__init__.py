"""The commands of `dataforge`, one module per command or group. Heavy imports are inside the commands."""
