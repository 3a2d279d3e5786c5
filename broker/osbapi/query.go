package osbapi

// hint returns a parameter that may be absent but, when it is there, must not
// be empty.
func (c *call) hint(name string) (string, error) {
	values, ok := c.query[name]
	if !ok {
		return "", nil
	}
	if len(values) != 1 || values[0] == "" {
		return "", invalid("The query parameter %s must be given once and not be empty.", name)
	}
	return values[0], nil
}

// required returns a parameter that must be there.
func (c *call) required(name string) (string, error) {
	v, err := c.hint(name)
	if err == nil && v == "" {
		err = invalid("The query parameter %s is required.", name)
	}
	return v, err
}

// acceptsIncomplete says whether the platform can poll (OSB, "Asynchronous
// Operations").
func (c *call) acceptsIncomplete() (bool, error) {
	switch v, err := c.hint("accepts_incomplete"); {
	case err != nil:
		return false, err
	case v == "true":
		return true, nil
	case v == "" || v == "false":
		return false, nil
	}
	return false, invalid("The query parameter accepts_incomplete must be true or false.")
}

// bindsIncomplete is acceptsIncomplete for bindings, where older platforms do
// not know it.
func (c *call) bindsIncomplete() (bool, error) {
	accepts, err := c.acceptsIncomplete()
	return accepts && c.minor >= minorAsyncBinding, err
}

// plan returns the service and plan of a deletion. They belong into the query (OSB,
// "Deprovisioning", "Unbinding"), but Korifi sends them in a JSON body, and nowhere else: with
// neither in the query a body is read.
func (c *call) plan() (serviceID, planID string, err error) {
	if c.ContentLength != 0 && !c.query.Has("service_id") && !c.query.Has("plan_id") {
		f, err := c.body()
		if err != nil {
			return "", "", err
		}
		for _, name := range []string{"service_id", "plan_id"} {
			value, err := f.text(name)
			if err != nil {
				return "", "", err
			}
			if value != "" {
				c.query.Set(name, value)
			}
		}
	}
	if serviceID, err = c.required("service_id"); err != nil {
		return "", "", err
	}
	planID, err = c.required("plan_id")
	return serviceID, planID, err
}

// planHints returns service and plan where they are optional.
func (c *call) planHints() (serviceID, planID string, err error) {
	if serviceID, err = c.hint("service_id"); err != nil {
		return "", "", err
	}
	planID, err = c.hint("plan_id")
	return serviceID, planID, err
}
