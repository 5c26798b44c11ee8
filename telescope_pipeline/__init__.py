"""The machinery around the library: parameters, files, executors and the command line."""
