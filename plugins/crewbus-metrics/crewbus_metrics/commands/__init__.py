"""The commands, each a module, loaded when the command line asks for them."""
