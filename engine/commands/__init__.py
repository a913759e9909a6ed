"""The commands of `cloak`, a module each, imported when they are called."""
