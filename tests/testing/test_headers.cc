// Nothing: its target compiles the headers that tests have in common.
