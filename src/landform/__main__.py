"""``python -m landform``, which is also what ``torchrun -m landform`` begins."""

from landform.cli import main

if __name__ == "__main__":
    main()
