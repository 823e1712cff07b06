package aggregator

// Busiest orders totals as answers list them.
var Busiest = busiest
