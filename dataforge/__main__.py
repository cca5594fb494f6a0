from dataforge.cli import main

main(prog_name="dataforge")
