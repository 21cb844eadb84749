def forget(models):
    models.ORDERS.clear()
    models.EVENTS.clear()
