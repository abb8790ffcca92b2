"""The contract of a store, as a class of tests to subclass."""
