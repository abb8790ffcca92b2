"""What ``crewbus new-plugin`` writes: the files of a plugin's distribution."""
