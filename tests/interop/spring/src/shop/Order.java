package shop;

/** What is bought; the starter writes it as JSON. */
public class Order {
    public String id;
    public int cents;

    /** How often its handling fails before it succeeds. */
    public int failures;
}
