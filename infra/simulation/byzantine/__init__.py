"""Byzantine consensus in the simulator: runs, adversaries that know the protocol, checkers."""
