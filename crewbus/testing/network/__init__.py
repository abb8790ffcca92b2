"""The contract of a store that is behind a network, and a proxy to cut that network with."""
