"""Job three: Prometheus's rules judged here, on the trader's own metrics, delivered surely."""
