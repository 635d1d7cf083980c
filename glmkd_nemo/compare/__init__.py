"""Every method and aggregator, trained alike and measured against a student without a teacher."""
