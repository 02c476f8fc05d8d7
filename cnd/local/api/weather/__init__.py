"""AWS's habits: what moto does at once and always, AWS does later and not always."""
