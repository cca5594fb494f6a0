"""The packages: pyproject.toml cannot combine a search with configs/, which is installed as trainers/configs/."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["dataforge*", "trainers*"]), "trainers.configs"],
    package_dir={"trainers.configs": "configs"},
)
