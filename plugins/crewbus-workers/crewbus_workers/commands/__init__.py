"""The commands, one module each: ``add_to(commands)`` adds the command, ``main(args, bus)`` runs it."""
