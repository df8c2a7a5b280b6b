"""The paper's tables, each a program that trains, evaluates and writes its result beside the paper's own numbers."""
