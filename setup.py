"""Packages of the distribution. Metadata is in pyproject.toml.

``ops/perception3d_ops`` is an import package of its own (kernels know nothing of driving), and the
lists under ``data/`` travel as ``perception3d_data``; both are mapped by name, because mapping them
below ``perception3d`` breaks when Python starts in the repository's root.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["perception3d", "perception3d.*"]),
        "perception3d_ops",
        "perception3d_data",
    ],
    package_dir={"perception3d_ops": "ops/perception3d_ops", "perception3d_data": "data"},
    package_data={
        "perception3d_data": ["splits/*.txt"],
        "perception3d": ["py.typed"],
        "perception3d.viewer": ["assets/*"],
    },
    include_package_data=False,
)
