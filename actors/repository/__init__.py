"""The shadow repository: git trees, workspaces, merges, and the way to the user's branch."""
