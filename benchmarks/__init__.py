"""One command per question; every benchmark also runs for one iteration in CI."""
