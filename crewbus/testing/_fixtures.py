"""The pytest plugin: fixtures for the tests of plugins and of what is built on a bus."""
