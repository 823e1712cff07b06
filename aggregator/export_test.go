package aggregator

// FailReads lets each read of the journal for the store fail with what fault returns.
func (cfg *Config) FailReads(fault func() error) { cfg.readFault = fault }
