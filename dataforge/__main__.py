from dataforge.cli.main import main

main(prog_name="dataforge")
