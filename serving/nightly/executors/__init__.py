"""Who runs the cells: one file an executor, behind one Protocol."""
