"""`cloak bench`: how fast this machine cloaks, and how well, in the manner of MLPerf's Offline scenario."""
