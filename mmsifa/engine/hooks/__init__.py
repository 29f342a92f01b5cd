"""Hooks, registered with ``mmaction.registry.HOOKS``; our configs have them on."""
