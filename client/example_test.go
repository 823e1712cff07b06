package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"usaged/client"
)

func Example() {
	c, err := client.New(client.Config{URL: "http://127.0.0.1:8080", Token: "…"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	err = c.Send(context.Background(), []client.Event{{
		Type:     "dashboard_publish",
		UserID:   "ann",
		Metadata: map[string]string{"dashboard_id": "sales"},
	}})
	if refused, ok := errors.AsType[*client.Problem](err); ok {
		for _, fault := range refused.Errors {
			fmt.Println(fault.Pointer, fault.Detail)
		}
	}
}
