"""Run a command on another machine over ssh: a wheel of this package, a job and its protocol, and the program there."""
