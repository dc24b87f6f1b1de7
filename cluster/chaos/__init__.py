"""What tests strike the real servers with: kills, cuts, full and rotten disks, load, and who looks meanwhile."""
