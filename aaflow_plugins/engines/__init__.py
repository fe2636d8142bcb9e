"""How ranks talk: one `Communicator` interface, and the engines that have it."""
