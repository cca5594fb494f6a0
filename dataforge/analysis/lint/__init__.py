"""What is wrong with a set, or odd about it. `README.md` beside this file lists the codes."""
